"""View spaces, each a module and a line in the registry, and how views are drawn from them."""
