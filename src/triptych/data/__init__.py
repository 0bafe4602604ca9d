"""Tables and matrices: interactions, item content, data sets and their splits. No torch in this room."""
