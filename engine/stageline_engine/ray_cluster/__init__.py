"""Ray finds machines for stages, places them and watches as a backstop; it is on the way of no step."""
