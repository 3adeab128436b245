"""From readings to numbers with error bars: retention, bootstrap, critical windows."""
