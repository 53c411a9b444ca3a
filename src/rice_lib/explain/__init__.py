"""What in an image decides: a relevance map over patches, its picture, and the test that deletes what it names."""
