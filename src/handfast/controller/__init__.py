"""The controller's side of managed machines: who they are, how they are introduced, and what is asked of them."""
