"""`lass app`: a page in the browser that separates drawn or dropped images and songs, with gradio."""
