"""One module per stage: read directories, do the work, write one directory. Stages never import each other."""
