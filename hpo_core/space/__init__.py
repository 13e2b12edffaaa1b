"""The search space: parameters, conditions and constraints, and how configurations map to the unit cube."""
