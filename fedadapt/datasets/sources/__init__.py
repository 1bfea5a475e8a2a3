"""Sources: how images are read, from torchvision's layouts, npz files and folders."""
