"""The commands: `glm lineage`, `glm takedown`, `glm attest`. Each imports what it needs when it is called."""
