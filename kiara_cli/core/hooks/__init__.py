"""What a person's idea changes in a training: the forward pass, gradients, the update, the objective."""
