"""Who may connect: checks of origins and hosts."""
