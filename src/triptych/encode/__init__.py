"""Pictures, texts and sounds -> `ItemFeatures`. The only room that knows encoders; they are loaded when used."""
