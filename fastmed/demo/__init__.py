"""The demonstration: real volumes in, a trained U-Net, its figures, and the fused loss beside MONAI's."""
