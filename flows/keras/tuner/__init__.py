"""The tuners: a study with the interface of KerasTuner."""
