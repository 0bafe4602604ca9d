"""Pictures, texts and sounds -> `ItemFeatures`. The only room that knows encoders, loaded when used."""
