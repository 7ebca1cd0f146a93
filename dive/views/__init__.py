"""View spaces, one module and one line in the registry each, and how views are drawn from them."""
