"""Methods, one file each. `omrlbench.registry` lists them; nothing is imported or registered here."""
