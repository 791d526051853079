"""Facts of silicon: cells, memories, scaling, published designs, and what we measured on them."""
