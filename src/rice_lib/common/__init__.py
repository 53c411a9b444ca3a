"""What every room uses: parameters, paths, classes, tracking, errors, atomic files."""
