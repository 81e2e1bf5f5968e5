"""Prints the folder where nnU-Net finds the trainer: `export nnUNet_extTrainer=$(python -m fastmed.compat.nnunet)`."""

from pathlib import Path

print(Path(__file__).with_name("found"))
