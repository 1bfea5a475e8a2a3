"""What a run over Flower knows of itself and of its clients, and still knows when it goes on."""
