"""What the model node alone shows: a bundle for the other node leaves this folder out."""
