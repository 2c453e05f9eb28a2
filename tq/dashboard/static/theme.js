// The chosen theme, before anything is painted. A classic script: a module would come too late.
try {
  const theme = localStorage.getItem("tq.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Without storage, it is as the system says.
}
