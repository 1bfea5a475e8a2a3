"""The models that a run made: files with a card each, loaded, used for prediction and exported."""
