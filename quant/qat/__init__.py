"""Training whose forward pass is the hardware."""
