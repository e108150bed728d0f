"""Between AnnData and arrays: what models read, what is written, how a fitted model is stored. Never torch."""
