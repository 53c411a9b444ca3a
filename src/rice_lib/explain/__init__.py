"""What in an image decides: a relevance map over its patches, the map as a picture, and the test of such maps."""
