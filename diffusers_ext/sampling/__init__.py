"""Make pictures and clips with a stock pipeline; nothing here scores them."""
