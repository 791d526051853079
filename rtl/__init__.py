"""Gates for the specs of :mod:`opennpe.golden`, in Amaranth, with golden's file names."""
