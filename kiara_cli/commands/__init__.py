"""One thin file per verb: options, config, one call into core, console."""
