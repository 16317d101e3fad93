"""Where raw data packages lie, behind the Storage port."""
