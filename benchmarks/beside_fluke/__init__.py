"""Our personalised strategies beside those of fluke-fl, on the same images and initial weights."""
