"""The image contract: the bytes of a file to pixels, features, a decision and a record. numpy and Pillow alone."""
