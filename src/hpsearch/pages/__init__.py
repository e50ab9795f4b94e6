"""What jobs write for people to read: sections with tables and figures, and the page that holds them."""
