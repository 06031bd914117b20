"""What reports, pages and plots are made of."""
