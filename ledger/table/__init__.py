"""The document table: which documents stand in which packed samples, in some 8 bytes a document; how it is made and kept."""
