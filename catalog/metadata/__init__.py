"""Product metadata files become numbers: one parser per format, each refusing what it cannot read."""
