"""The checks behind ``hpo doctor``: the machine, MLflow's store and a study."""
