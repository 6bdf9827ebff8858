"""Who may have what. Policy narrows a finding to a grant or refuses with every reason; it does no I/O."""
