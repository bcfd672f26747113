"""The local page of a run: what it shows, who may ask for it, and what it draws."""
