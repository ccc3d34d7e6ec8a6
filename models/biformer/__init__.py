"""BiFormer: a pyramid vision transformer whose regions attend to the few regions they were routed to (CVPR 2023)."""
