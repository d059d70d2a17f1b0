"""What a model does with a text: attention, logit lens, attribution, ablation, patching, neurons."""
