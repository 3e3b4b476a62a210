"""What a machine or a pod of one stage runs: it joins a head, and hosts the stage's ranks."""
