"""Images: where they come from, what they are (manifest), how they are divided (split), how they are read
(loading)."""
