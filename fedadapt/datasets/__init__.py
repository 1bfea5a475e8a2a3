"""Who holds which images: catalog (what there is), load (one benchmark), everything between."""
