// Before the first paint, so that a chosen theme does not flash.
(() => {
  let theme = null;
  try {
    theme = localStorage.getItem("heddle.theme");
  } catch {
    // storage may be forbidden: the system's colours then
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
