"""The lineage of studies: opens and replays them, starts them warm and chains them into series."""
