"""Results for people: pages and tables made from what runs recorded."""
