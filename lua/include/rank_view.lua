-- The status of a room as one of its ranks sees it: Failed if any rank is, else its own. A rank without a status sees
-- Failed too; to one that has cleared, the room is absent.

local function rank_view(status, own, has_cleared)
  return status == 'Failed' and not has_cleared and 'Failed' or own or false
end
