-- The status of a room as one of its ranks sees it: Failed when any rank is, else its own. A rank without a status sees
-- that others have failed; one that has cleared sees nothing.

local function rank_view(status, own, has_cleared)
  return status == 'Failed' and not has_cleared and 'Failed' or own or false
end
