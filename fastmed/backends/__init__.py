"""One module per backend; each implements `fastmed.contract.Backend` and knows no other."""
