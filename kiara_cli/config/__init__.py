"""Every knob: schema states them, load merges the layers that set them."""
