"""Two builds of one commit, compared stage by stage, down to the first file, row and field that differ."""
