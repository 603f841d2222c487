"""What a setting is: its name, default and rule, and the sections that settings stand in."""
